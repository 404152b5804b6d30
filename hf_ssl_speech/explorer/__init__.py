"""The explorer: a static page that shows what a run has learnt, with the model running in the page."""
