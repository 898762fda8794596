"""What one experiment is: what decides its result, how it is executed, how it is built."""
