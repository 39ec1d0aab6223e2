"""What the tests of MariaDB share: a small dump, and the recipe of its image."""

from __future__ import annotations

from typing import Final

from codecraft_async.intercode.sql_dump import SqlDump
from codecraft_pool.recipes import builtin_recipes

DUMP: Final = b"""
CREATE DATABASE shop;
USE shop;
CREATE TABLE maker (id INT AUTO_INCREMENT PRIMARY KEY, name VARCHAR(20) NOT NULL) ENGINE=InnoDB AUTO_INCREMENT=50;
CREATE TABLE Item (
  id INT PRIMARY KEY, maker_id INT, name TEXT, price DECIMAL(8,2), made DATE, seen DATETIME(3), took TIME, weight
  DOUBLE, picture BLOB, flags BIT(4), year YEAR, FOREIGN KEY (maker_id) REFERENCES maker (id)
) ENGINE=InnoDB DEFAULT CHARSET=latin1;
INSERT INTO maker VALUES (1, 'Anna'), (2, 'Bert');
INSERT INTO Item VALUES
  (1, 1, 'chair', 12.50, '2020-02-29', '2021-01-02 03:04:05.006', '-30:00:01', 1.5, x'00ff', b'1010', 1999),
  (2, 2, 'caf\xc3\xa9', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
CREATE DATABASE other_one;
CREATE TABLE other_one.t (a INT) ENGINE=Aria;
INSERT INTO other_one.t VALUES (1);
"""


def shop() -> SqlDump:
    """The recipe of an image with two small databases."""
    return SqlDump(DUMP, builtin_recipes()["codecraft/sql"].digest())
