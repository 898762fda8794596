"""Steps around a sweep: simulate it beforehand, extend and confirm it afterwards."""
