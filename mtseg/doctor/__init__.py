"""Every file of a data set read, and what is wrong with it said before the first step.

`facts` reads; `files`, `pools`, `plan` and `machine` judge; `examine` asks them all; `show`, `pictures`, `page` tell.
"""
