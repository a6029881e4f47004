"""Parts of the link quantize: calibrated and uncalibrated rounding, estimates, warnings."""
