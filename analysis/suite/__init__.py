"""The notebooks run headless: `suite` says what runs with which parameters and checks it, `runner` runs it with
papermill.
"""
