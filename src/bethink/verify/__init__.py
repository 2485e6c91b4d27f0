"""Floor 2: is this completion right?"""
