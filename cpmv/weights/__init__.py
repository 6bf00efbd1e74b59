"""From files to parameters and back.

hub         find a checkpoint: folder, .gguf pair, Hugging Face or ModelScope id
shards      safetensors files: headers checked, tensors memory-mapped; streaming writer
gguf        GGUF files: metadata and tensors; gguf_blocks dequantises, gguf_pair maps a pair onto the model
names       which released names are expected, which are ignored, and what GGUF calls them
quantize    what a quantised weight provides; nf4 and awq are the released formats
checkpoint  open, check and load; saving writes released files again
plan        how much memory a model and a request will need, before anything is loaded
"""
