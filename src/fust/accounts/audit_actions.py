"""Every action that the audit knows, with its title; a test finds those of the source that are missing here."""

from __future__ import annotations

from fust.core.i18n import Language, fill

ACTIONS: dict[str, str] = {
    "server.start": "The server started",
    "session.create": "Signed in",
    "session.refuse": "Sign-in refused",
    "session.end": "Signed out",
    "session.end_all": "Signed out everywhere",
    "user.create": "User added",
    "user.rename": "User's shown name changed",
    "user.admin": "Administrator's rights changed",
    "user.suspend": "User suspended",
    "user.resume": "User let in again",
    "user.delete": "User removed",
    "user.password": "Password set",
    "user.link": "Account linked to the sign-in provider",
    "org.create": "Organisation made",
    "org.rename": "Organisation's shown name changed",
    "org.delete": "Organisation removed",
    "org.member": "Member's role set",
    "org.remove_member": "Member removed",
    "token.create": "Key made",
    "token.revoke": "Key revoked",
    "link.create": "Sign-in link made",
    "invitation.create": "Invitation made",
    "invitation.accept": "Invitation accepted",
    "invitation.withdraw": "Invitation withdrawn",
    "webhook.create": "Webhook made",
    "webhook.change": "Webhook changed",
    "webhook.enable": "Webhook switched on",
    "webhook.disable": "Webhook switched off",
    "webhook.delete": "Webhook deleted",
    "seed.apply": "Seed file applied",
    "repo.create": "Repo made",
    "repo.delete": "Repo deleted",
    "repo.move": "Repo moved",
    "repo.settings": "Repo's settings changed",
    "repo.commit": "Commit",
    "repo.push": "Commit by a client",
    "repo.squash": "History of a branch squashed",
    "repo.branch.create": "Branch made",
    "repo.tag.create": "Tag made",
    "repo.ref.delete": "Branch or tag deleted",
    "bucket.create": "Bucket made",
    "bucket.delete": "Bucket deleted",
    "bucket.move": "Bucket moved",
    "bucket.settings": "Bucket's settings changed",
    "bucket.write": "Files of a bucket changed",
    "access.ask": "Access to a gated repo asked for",
    "access.accept": "Access request accepted",
    "access.reject": "Access request rejected",
    "access.cancel": "Access request set back to pending",
    "access.grant": "Access given unasked",
    "access.revoke": "Access taken away",
    "access.ask_again": "Terms to be agreed to again",
    "access.download": "Files of a gated repo fetched",
    "discussion.create": "Discussion or pull request opened",
    "repo.recover": "Repo read again after a crash",
    "deployment.start": "Model served",
    "deployment.stop": "Model taken off",
    "run.create": "Run started",
    "run.cancel": "Run cancelled",
    "audit.export": "Audit exported",
}


def action_title(action: str, language: Language = "en") -> str:
    """Returns what an action is called; an unknown one (of another version) by its own name."""
    title = ACTIONS.get(action)
    return fill(title, {}, language) if title else action
