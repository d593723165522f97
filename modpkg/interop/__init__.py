"""Import from and export to other tools: transformers, PEFT, GGUF, mergekit, safetensors."""
