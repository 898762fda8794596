"""Two recipes at matched compute: which is better, by how much compute, and does it hold at scale?"""
