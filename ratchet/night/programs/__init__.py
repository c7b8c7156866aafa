"""The programs that agents are: what each may see of a user, and what it may leave."""
