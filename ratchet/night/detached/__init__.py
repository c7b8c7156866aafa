"""A detached try: a process of its own tries the idea, whatever becomes of the shell."""
