"""The shop's business logic. It knows the database, but not the web."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from .database import PRODUCTS
from .models import Order, OrderLine, Product


class OutOfStock(Exception):
    """There isn't as much of a product as the cart has."""

    def __init__(self, product: Product):
        super().__init__(product.name)
        self.product = product


class PaymentFailed(Exception):
    """The bank said no."""

    def __init__(self, order: Order):
        super().__init__(order.id)
        self.order = order


def products(dbsession: Session) -> dict[int, Product]:
    """Return all products by their id."""
    found = dbsession.scalars(select(Product).order_by(Product.id))
    return {product.id: product for product in found}


def latest_orders(dbsession: Session) -> list[Order]:
    """Return the last orders, newest first."""
    return list(dbsession.scalars(select(Order).order_by(Order.id.desc()).limit(5)))


def place_order(dbsession: Session, cart: Mapping[int, int], customer: str) -> Order:
    """Take what's in the cart from the stock, and insert the order."""
    order = Order(customer=customer)
    for product_id, quantity in sorted(cart.items()):
        product = dbsession.get_one(Product, product_id)
        taken = dbsession.execute(
            update(Product)
            .where(Product.id == product_id, Product.stock >= quantity)
            .values(stock=Product.stock - quantity)
        )
        if not taken.rowcount:
            raise OutOfStock(product)
        order.lines.append(
            OrderLine(product=product, quantity=quantity, price=product.price)
        )
    dbsession.add(order)
    dbsession.flush()
    return order


def take_payment(order: Order, bank_says_no: bool) -> None:
    """Ask the bank for the money."""
    if bank_says_no:
        raise PaymentFailed(order)


def restock(dbsession: Session) -> None:
    """Refill the shelves, and delete the orders."""
    for order in dbsession.scalars(select(Order)):
        dbsession.delete(order)
    for name, _, stock in PRODUCTS:
        dbsession.execute(
            update(Product).where(Product.name == name).values(stock=stock)
        )
