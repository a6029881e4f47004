"""Files of other runtimes, written and read: what a light model must become to live there."""
