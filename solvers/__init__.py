"""Pure tensor mathematics on one weight matrix: no files, no models, no contexts."""
