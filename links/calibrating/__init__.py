"""Parts of the link calibrate: sources, parts, amount of text, sampled text, forecast."""
