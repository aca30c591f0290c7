from training_tunebook import enter

if __name__ == "__main__":
    enter("lora", max_pack_tokens=8192)  # all of an update at once, as peers take it
