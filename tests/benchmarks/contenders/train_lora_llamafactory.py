from training_llamafactory import enter

if __name__ == "__main__":
    enter("lora")
