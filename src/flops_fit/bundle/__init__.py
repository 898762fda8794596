"""A sweep as one file that another machine verifies: its runs, fit and page in an RO-Crate."""
