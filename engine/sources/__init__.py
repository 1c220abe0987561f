"""Where frames come from: recorded files, the venue, the broker."""
