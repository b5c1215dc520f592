"""The studio: Ditto as a page in the browser, on one model in this process, without the internet.

`wishes` says what a tab asks for (a request, a command, a Python snippet: one description, three
spellings); `jobs` carries wishes out one by one; `show` turns results into what the page draws;
`files` keeps users' files for an hour; `page` is the page, `server` what it is served by, behind a
`guard`; `front` is what both talk to while PyTorch and the model (`work`) are still coming.
"""
