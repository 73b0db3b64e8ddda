"""What is shown: tables, figures and sentences, and the pages made of them."""
