"""Text sampled from a model itself, for calibration and healing without any text of the user's."""
