"""Parts of the link heal: its methods, what they train, and their estimates."""
