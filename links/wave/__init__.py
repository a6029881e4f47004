"""Parts of the link waves: one wave, its body, its size, and estimates."""
