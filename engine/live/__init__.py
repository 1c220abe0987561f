"""The same loop, live: what the recorder journals goes through the kernel, and what that decides goes to the broker."""
