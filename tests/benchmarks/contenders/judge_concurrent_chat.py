import judge_chat

if __name__ == "__main__":
    judge_chat.main(at_once=32)
