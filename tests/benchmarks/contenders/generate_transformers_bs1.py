from generate_transformers import enter

if __name__ == "__main__":
    enter(1)
