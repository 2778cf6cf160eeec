"""Tables in, figures and widgets out.

`tables` shapes a study's tables into what is drawn, `plots` draws it (on the panels of `panels`), `style.save_figure`
writes it with the numbers behind it, `findings` and `claims` say what it shows beside the papers' numbers and claims,
`widgets` lets a reader choose. `data`, `scale`, `zero_shot`, `structured` and `shrunk` hold tables, figures and
findings of one question each, all from the runs' last numbers (`ends`). Nothing here imports torch: a figure can be
redrawn wherever its table is.
"""
