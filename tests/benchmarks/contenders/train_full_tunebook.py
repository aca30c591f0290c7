from training_tunebook import enter

if __name__ == "__main__":
    enter("full")
