"""What a contestant gets of Python, its packages and the system: programs without texts."""
