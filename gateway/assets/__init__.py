"""Images the gateway keeps: where their bytes lie, how many of them stay, and the expiring URLs they are served at.

base.py     the contract of a store, and what goes wrong in one
folder.py   a folder on this machine (the default)
s3.py       a bucket of anything that speaks S3 (extra `s3`)
opening.py  settings -> a store
formats.py  what kind of image some bytes are
links.py    URLs that are signed and expire
library.py  a store and the table `assets` together, within their bounds
"""
