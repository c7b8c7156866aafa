"""What a trained model can do: speak, be served, be scaled, be exported."""
