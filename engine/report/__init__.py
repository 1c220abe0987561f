"""What a person looks at: the measuring report as one self-contained HTML file."""
