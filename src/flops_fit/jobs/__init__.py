"""One experiment as a job: started, given its GPUs, followed."""
