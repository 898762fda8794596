"""One experiment as a job: start it, give it GPUs, follow its progress."""
