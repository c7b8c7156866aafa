"""Where an arena's text comes from: files, the hub, a package."""
