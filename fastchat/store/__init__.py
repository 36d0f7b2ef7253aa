"""What the platform remembers: keys, usage, conversations, battles and votes."""
