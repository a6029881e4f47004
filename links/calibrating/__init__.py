"""Parts of the calibrate link: sources, their division into parts, how much text, the forecast."""
