"""Tables in, figures and widgets out.

`tables` shapes a study's tables into what is drawn, `plots` draws it, `style.save_figure` writes it with the numbers behind
it, `findings` puts it beside the papers' numbers, `widgets` lets a reader choose. Nothing here imports torch: a figure can
be redrawn wherever its table is.
"""
