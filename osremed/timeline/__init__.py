"""What the GPUs did: health by the minute, slow ranks by the hour, the function that left a GPU idle."""
