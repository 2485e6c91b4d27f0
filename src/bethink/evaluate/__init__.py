"""Floor 4: how good is it, with thinking on and off, and how sure are we?"""
