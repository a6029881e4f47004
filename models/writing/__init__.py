"""Write a checkpoint as a Hugging Face folder and publish it atomically."""
