"""Documents for tests."""

from __future__ import annotations

from ragkeep.types.v1.types_pb2 import Document, Value


def ticket(
    document_id: str, title: str = "忘记密码", solution: str = "请用自助门户重置密码。", category: str = "账号管理"
) -> Document:
    """A service ticket."""
    texts = {"title": title, "description": f"{title}。", "solution": solution}
    fields = {name: Value(text=text) for name, text in texts.items()}
    fields |= {"ticket_id": Value(keyword=document_id), "category": Value(keyword=category)}
    return Document(id=document_id, fields=fields)


SAMPLE = [
    ticket("T-1001"),
    ticket(
        "T-1042", "VPN error 809 after an update", "Set AssumeUDPEncapsulationContextOnSendRule to 2 and restart.", "网络与VPN"
    ),
    ticket("T-1003", "打印机脱机", "在设备设置里取消“脱机使用打印机”，再重启后台打印服务。", "打印与外设"),
    ticket(
        "T-1004", "Shared mailbox is missing in Outlook", "Remove the account, add the mailbox again and restart.", "邮件与日历"
    ),
]
