"""Runs and published agents side by side: what is compared, its statistics, and how it is shown.

`results` reads runs, `comparison` says what may be compared and with what outcome, `tables` puts that into rows; text,
pictures and the HTML page show the same rows. Imports no torch.
"""
