"""What lies below ``results``: records, locks, plan files, and the tables made of them."""
