"""The saved model in a process of its own, which never sees a target."""
