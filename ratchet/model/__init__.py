"""What a trained model can do: speak, serve, scale, leave."""
