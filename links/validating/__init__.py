"""Parts of the link validate: judging a model on each text, and the record of it."""
