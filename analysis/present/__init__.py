"""Tables in, figures and widgets out.

One module for each question, which is a notebook: its tables (shaped from a study's), its figures (`plot_*`, which
draw such a table) and its findings (`say_*`, sentences, and `beside_*`, tables beside the papers' numbers).

    first_look 00, compounding 01, calibration 02, generated_text 03, granularity 04, criteria and atlas 05,
    retraining 06, scale 07, zero_shot 08, structured_encoder, _criteria, _errors and _findings 09,
    structured_decoder 10

They stand on a small base: `tables` chooses rows and takes means over seeds, `final` holds what every run ended with,
`panels` and `style` draw, `paper` holds the papers' numbers, `finding` is what a notebook shows as text, `provenance`
saves a figure with its rows and where they come from, `predict` asks what readers expect, `explore` lets them choose
and run; `schematic` and `two_streams` draw the pictures of the method. Nothing here imports torch: a figure can be
redrawn wherever its table is.
"""
