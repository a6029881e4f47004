"""One HTML file that shows what was done to a model and what it cost."""
