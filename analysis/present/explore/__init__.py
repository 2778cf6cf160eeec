"""Explorers: what a reader may turn, over tables that are there or asked for.

Each module has a choice (what the controls say, a small dataclass), pure functions from it to tables and to a figure
of matplotlib (the static one, which headless runs and exported pages show), and `explore_*`, a thin shell of
ipywidgets (`shell`).
What has to be computed is handed in as a function, since nothing here imports torch.

    errors      how error compounds, its parts, one token's share     overfitting  windows, epochs, weights per token
    builder     a recipe, forecast, run and laid over others          masks        which weights, rows, heads
    text        what dense and pruned models write and know           generated    the model's own text
"""
