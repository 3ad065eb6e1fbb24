from utils.process import wait_briefly

wait_briefly()  # before PyTorch is imported, as the commands do
