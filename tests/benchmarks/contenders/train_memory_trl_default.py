from training_trl import enter

if __name__ == "__main__":
    enter("lora", tuned=False)
