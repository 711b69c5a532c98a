// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.20;

import {TestToken} from "./TestToken.sol";

/// Tokens whose transferWithAuthorization comes back without having moved what
/// was authorized.
abstract contract CrookedToken is TestToken {
    function transferWithAuthorization(
        address from,
        address to,
        uint256 value,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 nonce,
        uint8 v,
        bytes32 r,
        bytes32 s
    ) external returns (bool) {
        _authorize(from, to, value, validAfter, validBefore, nonce, abi.encodePacked(r, s, v));
        return _settle(from, to, value, nonce);
    }

    function _settle(address from, address to, uint256 value, bytes32 nonce) internal virtual returns (bool);
}

/// It says false where others revert, and does nothing else.
contract FalseToken is CrookedToken {
    constructor(string memory name_, string memory version_) TestToken(name_, version_) {}

    function _settle(address, address, uint256, bytes32) internal pure override returns (bool) {
        return false;
    }
}

/// It says false, after it used the authorization up.
contract FalseAfterUseToken is CrookedToken {
    constructor(string memory name_, string memory version_) TestToken(name_, version_) {}

    function _settle(address from, address, uint256, bytes32 nonce) internal override returns (bool) {
        authorizationState[from][nonce] = true;
        emit AuthorizationUsed(from, nonce);
        return false;
    }
}
